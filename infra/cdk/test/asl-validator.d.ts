// asl-validator 4.0.0 ships no types.
declare module "asl-validator" {
  export default function validate(definition: unknown, options: { checkPaths: boolean; checkArn: boolean }): { isValid: boolean; errorsText: () => string };
}
